"""Students: small classifiers that learn the closed questions from a model.

- `teaching`: a model's answers and states, and pooled features, as a Ray Data actor.
- `lessons`: what it said, as tensors; what a student says, as answers.
- `router`: which questions the student may answer, within a budget of accuracy.
- `distil`: the job that puts them together.
- `student_report`: the student beside its model, in numbers.
"""

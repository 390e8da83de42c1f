import torch

from llava_ultra.objectives.distillation import distillation_loss


def test_distillation_is_the_kl_divergence_and_teaches_the_student_only():
    torch.manual_seed(0)
    teacher = torch.randn(4, 5, requires_grad=True)
    student = torch.randn(4, 5, requires_grad=True)
    mask = torch.ones(4, 5, dtype=torch.bool)
    loss = distillation_loss(teacher, student, mask, 2.0)
    target = (teacher.detach() / 2).softmax(1)
    expected = torch.nn.functional.kl_div(
        (student.detach() / 2).log_softmax(1), target, reduction="batchmean"
    )
    assert torch.allclose(loss, expected, atol=1e-6)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_distillation_brings_the_student_to_the_teacher():
    teacher = torch.tensor([[2.0, 0.0, -1.0, 50.0]])
    mask = torch.tensor([[True, True, True, False]])
    student = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        loss = distillation_loss(teacher, student, mask, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(student[0, :3].softmax(0), teacher[0, :3].softmax(0), atol=0.01)

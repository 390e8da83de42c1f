"""Recognition of classes from features: the job, its actor, what it reports, its calibration.

`sonoray_jobs.evaluation.recognition.recognize` is the command that puts them together.
"""

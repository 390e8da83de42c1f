"""Structured data: what a record says of a patient beside the images.

- `patient_columns`: columns of labels or of a table, which of them tell the answer, outcomes.
- `risk_model`: a risk from columns, with what each contributes.
- `risk_bias`: the risk by group.
- `risk_report`: the risk model judged.
- `risk_stage`: fitted and judged, kept.
- `predict_risk`: the job.
"""

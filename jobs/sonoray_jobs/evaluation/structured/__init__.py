"""Structured data: what a record says of a patient beside the images.

- `patient_columns`, `column_table`: columns of labels or of a table.
- `outcomes`, `leaks`: what is predicted, and the columns that tell it by another name.
- `risk_model`, `risk_fitting`: a risk from columns, with what each contributes.
- `risk_bias`: the risk by group.
- `risk_report`: the risk model judged.
- `risk_stage`: fitted and judged, kept.
- `predict_risk`: the job.
"""

"""What clinicians do with answers: say whether they are right, and take them as reports."""

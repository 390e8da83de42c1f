"""What a validation elsewhere adds: probabilities, decisions, abstention, groups, two samples."""

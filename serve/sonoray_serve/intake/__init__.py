"""From what a request says of its study, images or a UID, to the study as the models take it."""

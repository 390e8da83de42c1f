"""External validation: an exported model judged on a dataset that it was not trained on."""

"""What MLflow records: runs listed, filtered, sorted and put side by side."""

"""Tasks, their texts, and how texts become batches."""

"""The exhibits: record -> frame -> table or figure. A file is named as the notebook that it serves; the others are shared."""

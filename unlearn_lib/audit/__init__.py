"""`audit`: whether a model has forgotten, measured and attacked in every way that the texts and models at hand allow."""

"""Would active learning have paid? Experiments on data that is labelled already, with the labels withheld."""

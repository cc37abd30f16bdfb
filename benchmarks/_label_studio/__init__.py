"""A Label Studio for load: what of the real one this backend uses, as measured, over a hundred thousand tasks and more.

It keeps the contract (paging, filters, silently dropped predictions, the switch of the model version, the order of the
label stream) and not the speed: the real one takes about a millisecond per imported prediction and half a one per task
of the project and request. What it is asked and when is counted, which the real one does not tell.
"""

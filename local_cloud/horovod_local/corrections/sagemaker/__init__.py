"""
SageMaker: the API of training jobs, and the rules for what AWS refuses.

A job is only described here; `horovod_local.training_jobs` acts it.
"""

"""`cdk-horovod local` and what its verbs need."""

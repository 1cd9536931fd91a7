"""`cdk-horovod local`: its verbs, and the app and checks that they need."""

"""The drill that proves, in an account, what no test on one machine can: `cdk-horovod prove`."""

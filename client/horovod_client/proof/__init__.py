"""The drill of `cdk-horovod prove`, which tests in an AWS account what no test on one machine can."""

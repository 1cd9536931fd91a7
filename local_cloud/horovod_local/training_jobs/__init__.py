"""SageMaker training jobs as processes of this machine: their hosts, containers and output."""

"""
Amazon ECS, which moto only records: container instances, daemon services, tasks, deployments, and their templates.

`scheduling` is what ECS does by itself; `instances.container_agent` is the other side, on the instances. Only what a
daemon service needs is emulated: whatever else a request or a template asks for is refused, not dropped.
"""

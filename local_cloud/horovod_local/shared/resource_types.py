"""CloudFormation types that the local cloud accepts although nothing here acts on them."""

from __future__ import annotations

from typing import Final

ACCEPTED_WITHOUT_EFFECT: Final = {
    "AWS::CDK::Metadata": "tells AWS which constructs were used",
    "AWS::CloudWatch::Alarm": "no metric reaches it",
    "AWS::CloudWatch::CompositeAlarm": "no metric reaches it",
    "AWS::EC2::PlacementGroup": "there is one machine",
    "AWS::EC2::SecurityGroupEgress": "the network is not emulated",
    "AWS::Logs::MetricFilter": "no log line reaches it",
    "AWS::SQS::QueuePolicy": "nobody whose permissions are checked asks for a queue",
}
"""
Type to the reason why a run does not notice. Every other type that moto does not create is an error: a template that
deploys here must not lack anything silently.
"""

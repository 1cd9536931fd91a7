"""CloudFormation resource types that the local cloud accepts without effect."""

from __future__ import annotations

from typing import Final

ACCEPTED_WITHOUT_EFFECT: Final = {
    "AWS::CDK::Metadata": "tells AWS which constructs were used",
    "AWS::CloudWatch::Alarm": "alarms are not evaluated",
    "AWS::CloudWatch::CompositeAlarm": "alarms are not evaluated",
    "AWS::EC2::PlacementGroup": "all instances are on one machine",
    "AWS::EC2::SecurityGroupEgress": "the network is not emulated",
    "AWS::Logs::MetricFilter": "metric filters are not evaluated",
    "AWS::SQS::QueuePolicy": "no checked request uses a queue",
}
"""
Resource type to the reason why it has no effect on a run. Any other type that moto cannot create is an error, so that
no resource of a deployed template is silently missing.
"""

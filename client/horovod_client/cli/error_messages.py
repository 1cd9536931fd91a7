"""Error messages for users: one sentence with the next step."""

from __future__ import annotations

import click
from botocore import exceptions as aws

from horovod_client.aws.error_codes import CREDENTIALS_REFUSED, code_of
from horovod_client.errors import HorovodClientError

SIGN_IN = "sign in, for example with 'aws sso login' or 'aws configure', or set AWS_PROFILE"


def explain(error: Exception) -> str | None:
    """
    Explain an error and what to do about it; None for an error that only a bug can raise.

    Args:
        error: Error of a command.
    """
    match error:
        case click.UsageError(ctx=click.Context() as context):
            return f"{_without_period(error.format_message())}: see {context.command_path} --help"
        case click.ClickException():
            return error.format_message()
        case HorovodClientError():
            return str(error)
        case aws.NoRegionError() | aws.InvalidRegionError():
            return f"{_without_period(error)}: set AWS_REGION to the region of the stack"
        case (
            aws.NoCredentialsError()
            | aws.PartialCredentialsError()
            | aws.CredentialRetrievalError()
            | aws.ProfileNotFound()
            | aws.SSOError()
            | aws.TokenRetrievalError()
        ):
            return f"no usable AWS credentials ({_without_period(error)}): {SIGN_IN}"
        case aws.ConnectionError() | aws.HTTPClientError():
            return f"cannot reach AWS ({_without_period(error)}): check the network, AWS_REGION and AWS_ENDPOINT_URL"
        case aws.ClientError():
            return _refusal(error)
        case aws.BotoCoreError():
            return f"AWS cannot be called: {error}"
    return None


def _refusal(error: aws.ClientError) -> str:
    code = code_of(error)
    message = error.response.get("Error", {}).get("Message", "")
    if code in CREDENTIALS_REFUSED:
        return f"AWS refused the credentials ({code}): {SIGN_IN}"
    return f"AWS refused {error.operation_name} ({code}): {message}"


def _without_period(error: Exception | str) -> str:
    return str(error).rstrip(".")

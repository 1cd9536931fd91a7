"""
Evaluation of IAM policies for every request.

`requests` derives the permissions that a request needs: actions, resources and condition keys. `decision` evaluates
them against the policies that `deployed_policies` reads out of moto. `authorization` refuses denied requests before
they reach the services. A policy element that is not supported is an error, so nothing is allowed unevaluated.
"""

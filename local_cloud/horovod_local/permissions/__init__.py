"""
What a request to AWS needs to be allowed, and whether the deployed policies allow it.

`requests` turns a request into the actions, resources and condition keys that its service checks; `decision` asks the
policies of the account, as `stored` finds them; `gate` stands in front of the services and refuses what is denied.
What a policy holds that is not understood is an error: what cannot be evaluated is never allowed.
"""

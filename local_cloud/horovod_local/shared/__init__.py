"""What the endpoint, the permissions and the corrections of moto share."""

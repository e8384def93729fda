"""Who may use the service: client keys and tokens of the operator's issuer, and the account that each stands for."""

"""What there is: projects, models, groups, deployments and the work on them, and the rules they keep.

Every function takes a session of the caller's transaction, and knows nothing of HTTP.
"""

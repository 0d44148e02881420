"""What `lookonce_evaluation.soak` is made of: what is right, who asks, and the count."""

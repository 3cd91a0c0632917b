"""What several workers and machines share, kept in Redis; and what each of them does when Redis is away."""

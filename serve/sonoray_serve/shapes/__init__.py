"""The shapes of requests and answers: OpenAI's, and what this service adds."""

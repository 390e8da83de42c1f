"""From a prompt to an answer: tokens, texts and likelihoods."""

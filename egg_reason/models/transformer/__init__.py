"""Transformers of the Llama kind: Llama, Mistral, Qwen2 and Qwen3."""

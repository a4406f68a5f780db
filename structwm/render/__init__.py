"""Pictures of scenes through cameras."""

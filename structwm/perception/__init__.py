"""From sensors to scenes."""

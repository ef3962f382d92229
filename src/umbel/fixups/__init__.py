"""What makes an app at home in a framework, by itself."""

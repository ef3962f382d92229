"""What tests of applications, and of new brokers, backends and pools, stand on."""

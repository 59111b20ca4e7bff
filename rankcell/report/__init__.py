"""Pictures, and pages that hold them."""

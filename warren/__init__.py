"""What users of Warren import."""

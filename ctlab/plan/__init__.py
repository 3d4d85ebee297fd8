"""Pure: specs become operations (data), operations become the commands a person would type."""

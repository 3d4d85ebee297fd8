"""The only room that talks to the kernel: one file a subject. It knows nothing of labs."""

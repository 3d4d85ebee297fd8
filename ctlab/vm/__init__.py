"""The lab on a kernel of its own: a microVM of QEMU, its kernel and initramfs, and the channel into it."""

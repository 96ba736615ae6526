/* The monitor's image, as the command carries it. */
    .section .rodata
    .globl monitor_image
    .globl monitor_image_end
    .balign 4096
monitor_image:
    .incbin MONITOR_IMAGE
monitor_image_end:

    .section .note.GNU-stack, "", @progbits

/*
 * A guest that runs random programs, one after the other, and survives its own
 * exceptions. Loaded and entered at 1 MiB, identity mapped, CPL 0. Each
 * program is 256 random bytes run with TF set, in kernel or user mode, with
 * registers that hold random numbers, or point at page tables, descriptor
 * tables, the monitor, or nowhere. It lives for so many exceptions.
 *
 * Everything is addressed absolutely: the bytes are copied to 1 MiB.
 */
#define LOAD     0x100000
#define IDT      0x120000
#define GDT      0x121000
#define TSS      0x122000
#define STACK    0x130000
#define CODE     0x140000
#define VALUES   0x150000
#define COUNTER  0x151000
#define RANDOM   0x151008
#define PROGRAM  0x151010
#define SAFE     0x160000 /* tables to stand on while the others are made */
#define LIVES    48
#define AT(symbol) (LOAD + (symbol) - hostile_guest)

    .section .rodata
    .globl hostile_guest
    .globl hostile_guest_end
    .globl hostile_guest_seed
    .balign 16
hostile_guest:
    jmp 1f
    .balign 8
hostile_guest_seed:
    .quad 0x9e3779b97f4a7c15
1:  movl $STACK, %esp
    movq hostile_guest_seed(%rip), %rax
    movq %rax, RANDOM
    movl $0, PROGRAM

    /* IDT: 32 stubs of 16 bytes */
    movl $AT(stubs), %eax
    movl $IDT, %edi
    movl $32, %ecx
2:  movw %ax, (%rdi)
    movw $8, 2(%rdi)
    movw $0xee01, 4(%rdi)       /* a stack of its own; DPL 3: INT n may come */
    movl %eax, %edx
    shrl $16, %edx
    movw %dx, 6(%rdi)
    movq $0, 8(%rdi)
    addl $16, %eax
    addl $16, %edi
    loop 2b

    movl $SAFE, %ebp
    call make_tables
next_program:
    movl $STACK, %esp
    cld
    movl $SAFE, %eax
    movq %rax, %cr3
    movl $0x5f0, %edx           /* a mark: one more */
    movl $0x100, %eax
    outl %eax, %dx
    incl PROGRAM
    movl $LIVES, COUNTER

    /* Page tables as they were, and for user code too */
    movl $0x1000, %ebp
    call make_tables
    movl $0x1000, %eax
    movq %rax, %cr3

    movabsq $0x00af9b000000ffff, %rax
    movq %rax, GDT + 8
    movabsq $0x00cf93000000ffff, %rax
    movq %rax, GDT + 16
    movabsq $0x00cff3000000ffff, %rax
    movq %rax, GDT + 24
    movabsq $0x00affb000000ffff, %rax
    movq %rax, GDT + 32
    movabsq $0x0000890000000067 + (TSS << 16 & 0xffffff0000), %rax
    movq %rax, GDT + 40
    movq $0, GDT + 48
    movl $STACK - 4096, TSS + 4
    movl $0, TSS + 8
    movl $STACK, TSS + 36       /* IST 1 */
    movl $0, TSS + 40
    lgdt gdtr(%rip)
    lidt idtr(%rip)
    movl $0x28, %eax
    ltr %ax

    /* The program and its registers */
    movl $CODE, %edi
    movl $32, %ecx
4:  call random
    stosq
    loop 4b
    movl $VALUES, %edi
    movl $16, %ecx
5:  call random
    testb $1, %al
    jz 6f
    movl %eax, %edx
    shrl $8, %edx
    andl $15, %edx
    shrq $32, %rax
    andl $0xff8, %eax
    addq places(,%rdx,8), %rax
6:  stosq
    loop 5b

    /* Kernel or user mode */
    call random
    testb $1, %al
    jz 7f
    pushq $0x1b
    pushq $STACK - 8192
    pushq $0x102
    pushq $0x23
    jmp 8f
7:  pushq $0x10
    pushq $STACK - 8192
    pushq $0x102
    pushq $0x08
8:  pushq $CODE
    movl $VALUES, %esi
    movq (%rsi), %rax
    movq 8(%rsi), %rbx
    movq 16(%rsi), %rcx
    movq 24(%rsi), %rdx
    movq 32(%rsi), %rdi
    movq 40(%rsi), %rbp
    movq 48(%rsi), %r8
    movq 56(%rsi), %r9
    movq 64(%rsi), %r10
    movq 72(%rsi), %r11
    movq 80(%rsi), %r12
    movq 88(%rsi), %r13
    movq 96(%rsi), %r14
    movq 104(%rsi), %r15
    movq 112(%rsi), %rsi
    iretq

/* A PML4 at RBP, a PDPT and a page directory behind it: all 16 MiB of RAM. */
make_tables:
    xorl %eax, %eax
    movl %ebp, %edi
    movl $1536, %ecx
    rep stosq
    leal 0x1027(%rbp), %eax
    movq %rax, (%rbp)
    leal 0x2027(%rbp), %eax
    movq %rax, 0x1000(%rbp)
    leal 0x2000(%rbp), %edi
    movl $0xe7, %eax
    movl $8, %ecx
3:  movq %rax, (%rdi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 3b
    ret

/* xorshift64 (Marsaglia, Journal of Statistical Software 8, 2003) */
random:
    movq RANDOM, %rax
    movq %rax, %rdx
    shlq $13, %rdx
    xorq %rdx, %rax
    movq %rax, %rdx
    shrq $7, %rdx
    xorq %rdx, %rax
    movq %rax, %rdx
    shlq $17, %rdx
    xorq %rdx, %rax
    movq %rax, RANDOM
    ret

    .balign 16
stubs:
    vector = 0
    .rept 32
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) \
        || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trapped
    vector = vector + 1
    .endr

/* On with the next byte, or back into the program. */
trapped:
    pushq %rax
    decl COUNTER
    jz next_program
    movq 24(%rsp), %rax
    cmpl $1, 8(%rsp)
    je 9f
    incq %rax
9:  subq $CODE, %rax
    andl $0xff, %eax
    addq $CODE, %rax
    movq %rax, 24(%rsp)
    andq $0xcd5, 40(%rsp)       /* the arithmetic flags and DF */
    orq $0x102, 40(%rsp)
    popq %rax
    addq $16, %rsp
    iretq

    .balign 8
gdtr:
    .word 55
    .quad GDT
idtr:
    .word 32 * 16 - 1
    .quad IDT

/* Places worth a visit */
    .balign 8
places_here:
    .quad 0x1000, 0x2000, 0x4000, IDT, GDT, TSS, STACK - 8192, CODE
    .quad 0xfffffd8000000000, 0xfffffd8000120000, 0xfffffd8000220000
    .quad 0xfffffdc000000000, 0xfffffffffffff000, 0x00007ffffffff000
    .quad 0x0000800000000000, 0xffffffff80100000
places = LOAD + places_here - hostile_guest
hostile_guest_end:

    .section .note.GNU-stack, "", @progbits

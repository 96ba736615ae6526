/*
 * One decoded instruction of the guest's, as the monitor emulates it: what the
 * VMM makes of its bytes with a full decoder (vmm/decode.h), once per site,
 * and the monitor keeps. Fixed size, no pointers: it crosses between the two.
 */
#ifndef VMM_MONITOR_INSN_H
#define VMM_MONITOR_INSN_H

#include <stdint.h>

#define INSN_BYTES_MAX 15

/* Registers are numbered as in ModR/M and REX: RAX 0 .. R15 15. */
enum insn_reg {
    INSN_REG_NONE = 0xff,
    INSN_REG_RIP = 0x10,  /* as a base: the address of the next instruction */
    INSN_REG_HIGH = 0x20, /* | 0..3: AH, CH, DH, BH */
};

enum insn_segment {
    INSN_ES,
    INSN_CS,
    INSN_SS,
    INSN_DS,
    INSN_FS,
    INSN_GS,
};

enum insn_op {
    INSN_UNDEFINED,   /* no such instruction in 64-bit mode: #UD */
    INSN_UNSUPPORTED, /* an instruction, but none the monitor emulates */

    /* Privileged: #GP at CPL 3. */
    INSN_HLT,
    INSN_CLI,
    INSN_STI,
    INSN_MOV_FROM_CR, /* operand[0] reg, number = CR */
    INSN_MOV_TO_CR,   /* operand[0] reg, number = CR */
    INSN_MOV_FROM_DR,
    INSN_MOV_TO_DR,
    INSN_LMSW, /* operand[0] */
    INSN_CLTS,
    INSN_INVLPG,  /* operand[0] memory: the address only */
    INSN_INVPCID, /* operand[0] reg: the type; operand[1] memory */
    INSN_RDMSR,
    INSN_WRMSR,
    INSN_LGDT, /* operand[0] memory, 10 bytes */
    INSN_LIDT,
    INSN_LLDT, /* operand[0] */
    INSN_LTR,  /* operand[0] */
    INSN_SWAPGS,
    INSN_SYSRET, /* size 4 or 8 (REX.W) */
    INSN_WBINVD, /* and INVD */
    INSN_IN,     /* size; operand[0] DX (reg 2) or an immediate port */
    INSN_OUT,
    INSN_INS, /* rep; size */
    INSN_OUTS,
    INSN_XSETBV,
    INSN_RDTSC, /* where CR4.TSD is set */
    INSN_RDTSCP,
    INSN_RDPID, /* operand[0] reg, 8 bytes; never traps */
    INSN_RDPMC,
    INSN_MONITOR,
    INSN_MWAIT,

    /* Sensitive and not privileged (Robin and Irvine, USENIX Security 2000);
     * the descriptor-table ones trap with CR4.UMIP. */
    INSN_SGDT, /* operand[0] memory, 10 bytes */
    INSN_SIDT,
    INSN_SLDT, /* operand[0]; size 2, 4 or 8 when a register */
    INSN_STR,
    INSN_SMSW,
    INSN_PUSHF, /* size 2 or 8 */
    INSN_POPF,
    INSN_LAR, /* operand[0] reg, operand[1] selector */
    INSN_LSL,
    INSN_VERR, /* operand[0] selector */
    INSN_VERW,
    INSN_MOV_FROM_SEG, /* operand[0], number = segment */
    INSN_MOV_TO_SEG,   /* operand[0], number = segment */
    INSN_PUSH_SEG,     /* FS and GS in 64-bit mode; number; size 2 or 8 */
    INSN_POP_SEG,
    INSN_LOAD_FAR, /* LSS, LFS, LGS: operand[0] reg, operand[1] memory;
                      number = segment */
    INSN_CALL_FAR, /* operand[0] memory; size 2, 4 or 8 of the offset */
    INSN_JMP_FAR,
    INSN_RET_FAR, /* size; operand[0] an immediate (bytes to release) */
    INSN_INT,     /* number = vector; INT3 and INT1 too */
    INSN_IRET,    /* size 2, 4 or 8 */

    /* Not sensitive, but they write where the CPU can't: a traced page table.
     * operand[0] is the destination, operand[1] the source. */
    INSN_MOV,
    INSN_ADD,
    INSN_OR,
    INSN_ADC,
    INSN_SBB,
    INSN_AND,
    INSN_SUB,
    INSN_XOR,
    INSN_INC, /* operand[0] only */
    INSN_DEC,
    INSN_NOT,
    INSN_NEG,
    INSN_BTS, /* operand[1] a register or an immediate */
    INSN_BTR,
    INSN_BTC,
    INSN_XCHG,
    INSN_XADD,
    INSN_CMPXCHG,   /* operand[1] reg; the accumulator is implied */
    INSN_CMPXCHG8B, /* size 8: 8B, size 16: 16B; operand[0] memory */
    INSN_MOVNTI,
    INSN_STOS, /* size, rep */
    INSN_MOVS,
    INSN_PUSH, /* operand[0]; size 2 or 8 */
    INSN_POP,
    INSN_CALL, /* operand[0]: an immediate is the target's offset from the
                  next instruction; a register or memory holds the target */

    INSN_OPS
};

enum insn_operand_kind {
    INSN_OPERAND_NONE,
    INSN_OPERAND_REG,    /* reg */
    INSN_OPERAND_IMM,    /* imm, sign-extended to 64 bits */
    INSN_OPERAND_MEMORY, /* the instruction's one memory address */
};

struct insn_operand {
    uint8_t kind; /* enum insn_operand_kind */
    uint8_t reg;  /* 0..15, or INSN_REG_HIGH | 0..3 */
    uint8_t size; /* in bytes; an immediate source has its destination's */
    uint8_t reserved;
};

enum insn_flags {
    INSN_REP = 1 << 0,   /* F3, where it repeats */
    INSN_REPNE = 1 << 1, /* F2, where it repeats */
    INSN_LOCK = 1 << 2,
    INSN_ADDRESS_32 = 1 << 3, /* address size prefix: 32 bits */
};

struct insn {
    uint8_t length; /* 1..15 */
    uint8_t bytes[INSN_BYTES_MAX];
    uint8_t op;     /* enum insn_op */
    uint8_t size;   /* operand size in bytes, where op says so */
    uint8_t number; /* control register, segment or vector, where op says so */
    uint8_t flags;  /* enum insn_flags */
    struct insn_operand operand[2];
    /* The memory operand: segment base + base + index * scale + disp. For
     * string instructions the implied RSI (its segment here) and RDI. */
    uint8_t segment; /* enum insn_segment; the default when no prefix */
    uint8_t base;    /* 0..15, INSN_REG_RIP or INSN_REG_NONE */
    uint8_t index;   /* 0..15 or INSN_REG_NONE */
    uint8_t scale;   /* 1, 2, 4 or 8 */
    int64_t disp;
    int64_t imm;
};

#endif

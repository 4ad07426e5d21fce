// The code between two kernels. Entered in 64-bit mode with paging on and memory mapped one to one, at
// kdumpbox_purgatory_entry; leaves in 64-bit, 32-bit (below 4 GiB) or real mode (below 1 MiB). Copied with everything up to kdumpbox_purgatory_end, so every reference is relative to
// the instruction pointer. The fields at the top are filled in by the loader (purgatory.rs).
.pushsection .text.kdumpbox_purgatory, "ax", @progbits
.balign 4096
.globl kdumpbox_purgatory_start
kdumpbox_purgatory_start:

// struct fields, in the order of purgatory.rs
.Lfields:
.Ltarget_entry:   .quad 0                 // where to go; in real mode: the segment of setup code and data
.Ltarget_rsi:     .quad 0                 // boot_params
.Ltarget_rdi:     .quad 0                 // ELF boot notes
.Ltarget_eax:     .long 0                 // 32-bit only
.Ltarget_ebx:     .long 0
.Lmode:           .quad 0                 // 64, 32 or 16 bits
.Lbackup_from:    .quad 0
.Lbackup_to:      .quad 0
.Lbackup_len:     .quad 0
.Ljump_back:      .quad 0                 // where the text ' kexec_jump_back_entry=' is to be completed, or 0
.Lcopy_from:      .long 0                 // 32-bit only: bytes that can be reached once paging is off
.Lcopy_to:        .long 0
.Lcopy_len:       .quad 0
.Lserial_port:    .long 0                 // 0: silent
.Lserial_divisor: .long 0                 // 0: leave the UART as it is
.Lflags:          .quad 0                 // 1: do not verify; 2: say that we are here; 4: reset VGA; 8: VGA console
.Lregion_count:   .quad 0
.Lregions:        .fill 32, 8, 0          // 16 pairs: address, bytes (a multiple of 64)
.Llast_block:     .fill 64, 1, 0          // SHA-256 padding
.Ldigest:         .fill 8, 4, 0           // words, native byte order
.Lstate:          .fill 8, 4, 0           // initial value

.balign 16
.Lgdt:            .quad 0
                .quad 0x00af9a000000ffff // 0x08 code, 64-bit
                .quad 0x00cf9a000000ffff // 0x10 code, 32-bit: the selectors of Linux's 32-bit boot protocol
                .quad 0x00cf92000000ffff // 0x18 data
.Lgdt_16:         .quad 0x00009b000000ffff // 0x20 code, 16-bit, from the purgatory's start
                .quad 0x000093000000ffff // 0x28 data, the same
.Lgdt_end:
.Lgdt_pointer:    .word .Lgdt_end - .Lgdt - 1
                .quad 0
.Lno_idt:         .word 0
                .quad 0
.Lbios_idt:       .word 0x3ff             // interrupt vectors of real mode
                .long 0

// Distances from the start, for code that has no instruction-relative addresses.
.set .Ocopy_from, .Lcopy_from - kdumpbox_purgatory_start
.set .Ocopy_to, .Lcopy_to - kdumpbox_purgatory_start
.set .Ocopy_len, .Lcopy_len - kdumpbox_purgatory_start
.set .Omode, .Lmode - kdumpbox_purgatory_start
.set .Otarget_eax, .Ltarget_eax - kdumpbox_purgatory_start
.set .Otarget_ebx, .Ltarget_ebx - kdumpbox_purgatory_start
.set .Otarget_rsi, .Ltarget_rsi - kdumpbox_purgatory_start
.set .Otarget_entry, .Ltarget_entry - kdumpbox_purgatory_start
.set .Ogdt_16, .Lgdt_16 - kdumpbox_purgatory_start
.set .Obios_idt, .Lbios_idt - kdumpbox_purgatory_start

.balign 16
.globl kdumpbox_purgatory_entry
kdumpbox_purgatory_entry:
    cli
    cld
    cmp     qword ptr [rip + .Ljump_back], 0
    je      32f
    mov     r15, [rsp]              // back to a kernel whose context is preserved
32: lea     rsp, [rip + .Lstack_top]
    lea     rax, [rip + .Lgdt]
    mov     [rip + .Lgdt_pointer + 2], rax
    lgdt    [rip + .Lgdt_pointer]
    mov     eax, 0x18
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     fs, eax
    mov     gs, eax
    push    0x08
    lea     rax, [rip + 14f]
    push    rax
    retfq
14:
    call    .Lserial_init
    test    qword ptr [rip + .Lflags], 4
    jz      17f
    call    .Lvga_reset
17:
    test    qword ptr [rip + .Lflags], 2
    jz      2f
    lea     rsi, [rip + .Ltext_here]
    call    .Lprint
2:
    // The first 640 KiB go where the crash kernel's /proc/vmcore looks for them.
    mov     rsi, [rip + .Lbackup_from]
    mov     rdi, [rip + .Lbackup_to]
    mov     rcx, [rip + .Lbackup_len]
    rep     movsb
    test    qword ptr [rip + .Lflags], 1
    jnz     5f
    sub     rsp, 32                 // the digest as it grows; not beside the code, as the stack below says
    lea     rsi, [rip + .Lstate]
    mov     rdi, rsp
    mov     ecx, 4
    rep     movsq
    lea     rbx, [rip + .Lregions]
    mov     r12, [rip + .Lregion_count]
3:
    test    r12, r12
    jz      4f
    mov     rdi, rsp
    mov     rsi, [rbx]
    mov     rdx, [rbx + 8]
    shr     rdx, 6
    call    kdumpbox_sha256_blocks
    add     rbx, 16
    dec     r12
    jmp     3b
4:
    mov     rdi, rsp
    lea     rsi, [rip + .Llast_block]
    mov     edx, 1
    call    kdumpbox_sha256_blocks
    mov     rsi, rsp
    lea     rdi, [rip + .Ldigest]
    mov     ecx, 8
    lea     rsp, [rsp + 32]
    repe    cmpsd
    jne     .Lmismatch
5:
    mov     rdi, [rip + .Ljump_back]
    test    rdi, rdi
    jz      18f
    mov     ecx, 16                 // the address in hexadecimal over the digits that are there
19: rol     r15, 4
    mov     eax, r15d
    and     eax, 15
    cmp     al, 10
    jb      24f
    add     al, 'a' - '0' - 10
24: add     al, '0'
    stosb
    loop    19b
18:
    cmp     dword ptr [rip + .Lmode], 64
    jne     .Lto_32
    mov     rax, [rip + .Ltarget_entry]
    mov     rsi, [rip + .Ltarget_rsi]
    mov     rdi, [rip + .Ltarget_rdi]
    xor     ebx, ebx
    xor     ecx, ecx
    xor     edx, edx
    xor     ebp, ebp
    xor     r8d, r8d
    xor     r9d, r9d
    xor     r10d, r10d
    xor     r11d, r11d
    xor     r12d, r12d
    xor     r13d, r13d
    xor     r14d, r14d
    xor     r15d, r15d
    push    0x10                    // the selector that Linux's 64-bit boot protocol names holds 64-bit code here
    mov     rbp, 0x00af9a000000ffff
    mov     [rip + .Lgdt + 0x10], rbp
    xor     ebp, ebp
    push    rax
    retfq

// Out of 64-bit mode: everything lies below 4 GiB.
.Lto_32:
    lea     rbp, [rip + kdumpbox_purgatory_start]
    push    0x10
    lea     rax, [rip + 27f]
    push    rax
    retfq
.code32
27: mov     eax, cr0
    and     eax, 0x7fffffff         // paging off, which leaves 64-bit mode
    mov     cr0, eax
    mov     ecx, 0xc0000080         // EFER: LME off
    rdmsr
    and     eax, 0xfffffeff
    wrmsr
    xor     eax, eax                // PAE and 5 levels off
    mov     cr4, eax
    mov     eax, 0x18
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     fs, eax
    mov     gs, eax
    cmp     dword ptr [ebp + .Omode], 16
    je      .Lto_16
    mov     esi, [ebp + .Ocopy_from]
    mov     edi, [ebp + .Ocopy_to]
    mov     ecx, [ebp + .Ocopy_len]
    rep     movsb
    mov     eax, [ebp + .Otarget_eax]
    mov     ebx, [ebp + .Otarget_ebx]
    mov     esi, [ebp + .Otarget_rsi]
    push    dword ptr [ebp + .Otarget_entry]
    xor     ecx, ecx
    xor     edx, edx
    xor     edi, edi
    xor     ebp, ebp
    ret

// Into real mode, below 1 MiB: the BIOS's interrupt vectors, its interrupt controller's numbers, its segments.
.Lto_16:
    mov     al, 0x11                // both 8259s: begin, ...
    out     0x20, al
    out     0xa0, al
    mov     al, 0x08                // ... interrupts 0x08 and 0x70, ...
    out     0x21, al
    mov     al, 0x70
    out     0xa1, al
    mov     al, 0x04                // ... one behind the other's line 2, ...
    out     0x21, al
    mov     al, 0x02
    out     0xa1, al
    mov     al, 0x01                // ... 8086 mode, ...
    out     0x21, al
    out     0xa1, al
    mov     al, 0xb8                // ... open: timer, keyboard, cascade, disk, as the BIOS leaves them
    out     0x21, al
    mov     al, 0x8e
    out     0xa1, al
    mov     eax, ebp                // the base of both 16-bit descriptors
    mov     [ebp + .Ogdt_16 + 2], ax
    mov     [ebp + .Ogdt_16 + 10], ax
    shr     eax, 16
    mov     [ebp + .Ogdt_16 + 4], al
    mov     [ebp + .Ogdt_16 + 12], al
    mov     ebx, [ebp + .Otarget_entry]
    mov     edx, ebp
    shr     edx, 4
    lidt    [ebp + .Obios_idt]
    mov     eax, offset .Oprotected_16
    push    0x20
    push    eax
    retf
.code16
.Lprotected_16:
    mov     ax, 0x28
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     fs, ax
    mov     gs, ax
    mov     esp, offset .Ostack_top
    mov     eax, cr0
    and     al, 0xfe
    mov     cr0, eax
    mov     eax, offset .Oreal
    push    dx
    push    ax
    .byte   0xcb                    // retf of 16 bits: the mnemonic gives one of 32
.Lreal:
    mov     ss, bx
    mov     esp, 0xe000             // HEAP_END of the boot protocol's sample
    mov     ds, bx
    mov     es, bx
    mov     fs, bx
    mov     gs, bx
    add     bx, 0x20
    push    bx
    push    0
    .byte   0xcb
.code64

.Lmismatch:
    lea     rsi, [rip + .Ltext_mismatch]
    call    .Lprint
    mov     dx, 0xcf9               // chipset reset control
    mov     al, 0x06
    out     dx, al
    mov     ecx, 0x100000
6:  in      al, 0x64                // keyboard controller: wait for an empty input buffer, then pulse reset
    test    al, 2
    loopnz  6b
    mov     al, 0xfe
    out     0x64, al
    mov     ecx, 0x100000
7:  in      al, 0x80
    loop    7b
    lidt    [rip + .Lno_idt]          // last: triple fault
    int3
8:  hlt
    jmp     8b

.Lprint:                              // rsi: text ending in NUL; to the serial port and, if asked, the VGA screen
    test    qword ptr [rip + .Lflags], 8
    jz      .Lserial_print
    mov     rbx, rsi
    mov     esi, 0xb80a0            // every line one up
    mov     edi, 0xb8000
    mov     ecx, 24 * 80
    rep     movsw
    mov     rsi, rbx
    mov     ecx, 80
    mov     ah, 7
28: lodsb
    cmp     al, ' '
    jae     29f
    dec     rsi                     // behind the text: spaces
    mov     al, ' '
29: stosw
    loop    28b
    mov     rsi, rbx
    jmp     .Lserial_print

// Text mode 3: 80 by 25. The values are those that every VGA BIOS sets; the font in plane 2 is left alone.
.Lvga_reset:
    mov     edx, 0x3c2              // miscellaneous output: colour ports, 25 MHz, 400 lines
    mov     al, 0x67
    out     dx, al
    lea     rsi, [rip + .Lvga_tables]
    mov     edx, 0x3c4              // sequencer
    mov     ecx, 5
    call    .Lvga_indexed
    mov     edx, 0x3d4              // CRT controller, its first registers unlocked
    mov     eax, 0x0e11
    out     dx, ax
    mov     ecx, 25
    call    .Lvga_indexed
    mov     edx, 0x3ce              // graphics controller
    mov     ecx, 9
    call    .Lvga_indexed
    mov     edx, 0x3da              // attribute controller: index and data by turns, from a reset of its flip-flop on
    in      al, dx
    mov     edx, 0x3c0
    xor     ebx, ebx
30: mov     eax, ebx
    out     dx, al
    lodsb
    out     dx, al
    inc     ebx
    cmp     ebx, 21
    jne     30b
    mov     al, 0x20                // and on
    out     dx, al
    ret
.Lvga_indexed:                        // ecx registers of index port dx, from 0 on, values at rsi
    xor     ebx, ebx
31: mov     al, bl
    mov     ah, [rsi]
    out     dx, ax
    inc     rsi
    inc     ebx
    loop    31b
    ret
.Lvga_tables:
    .byte   0x03, 0x00, 0x03, 0x00, 0x02
    .byte   0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0
    .byte   0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff
    .byte   0, 0, 0, 0, 0, 0x10, 0x0e, 0x00, 0xff
    .byte   0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 0x08, 0

.Lserial_init:                        // sets 8n1 and the divisor, if one is given
    mov     eax, [rip + .Lserial_divisor]
    mov     edx, [rip + .Lserial_port]
    test    edx, edx
    jz      9f
    test    eax, eax
    jz      9f
    mov     ecx, eax
    mov     al, 0x83
    lea     edx, [rdx + 3]
    out     dx, al
    lea     edx, [rdx - 3]
    mov     al, cl
    out     dx, al
    inc     edx
    mov     al, ch
    out     dx, al
    lea     edx, [rdx + 2]
    mov     al, 0x03
    out     dx, al
9:  ret

.Lserial_print:                       // rsi: text ending in NUL; each byte waits a bounded time
    mov     r8d, [rip + .Lserial_port]
    test    r8d, r8d
    jz      13f
15: mov     r9b, [rsi]
    inc     rsi
    test    r9b, r9b
    jz      13f
    mov     ecx, 0x40000
    lea     edx, [r8 + 5]
16: in      al, dx
    test    al, 0x20
    jnz     12f
    loop    16b
12: mov     edx, r8d
    mov     al, r9b
    out     dx, al
    jmp     15b
13: ret

.Ltext_here:     .asciz "kdumpbox: in purgatory\r\n"
.Ltext_mismatch: .asciz "kdumpbox: the loaded image was overwritten (SHA-256 differs); resetting the machine\r\n"

// void kdumpbox_sha256_blocks(uint32_t state[8], const uint8_t *data, uint64_t blocks), System V calling convention.
// FIPS 180-4, section 6.2.2; the message schedule is on the stack.
.balign 16
.globl kdumpbox_sha256_blocks
kdumpbox_sha256_blocks:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    sub     rsp, 264
    mov     [rsp + 256], rdx
    lea     r12, [rip + .Lround_constants]
20: cmp     qword ptr [rsp + 256], 0
    je      26f
    dec     qword ptr [rsp + 256]
    xor     ecx, ecx
21: mov     eax, [rsi + rcx * 4]
    bswap   eax
    mov     [rsp + rcx * 4], eax
    inc     ecx
    cmp     ecx, 16
    jne     21b
    add     rsi, 64
22: mov     eax, [rsp + rcx * 4 - 60]
    mov     edx, eax
    mov     ebx, eax
    ror     eax, 7
    ror     edx, 18
    shr     ebx, 3
    xor     eax, edx
    xor     eax, ebx
    mov     ebp, [rsp + rcx * 4 - 8]
    mov     edx, ebp
    mov     ebx, ebp
    ror     ebp, 17
    ror     edx, 19
    shr     ebx, 10
    xor     ebp, edx
    xor     ebp, ebx
    add     eax, ebp
    add     eax, [rsp + rcx * 4 - 64]
    add     eax, [rsp + rcx * 4 - 28]
    mov     [rsp + rcx * 4], eax
    inc     ecx
    cmp     ecx, 64
    jne     22b
    mov     eax, [rdi]              // a b c d: eax ebx ecx edx; e f g h: r8d r9d r10d r11d
    mov     ebx, [rdi + 4]
    mov     ecx, [rdi + 8]
    mov     edx, [rdi + 12]
    mov     r8d, [rdi + 16]
    mov     r9d, [rdi + 20]
    mov     r10d, [rdi + 24]
    mov     r11d, [rdi + 28]
    xor     r14d, r14d
23: mov     ebp, r8d
    mov     r15d, r8d
    mov     r13d, r8d
    ror     ebp, 6
    ror     r15d, 11
    ror     r13d, 25
    xor     ebp, r15d
    xor     ebp, r13d
    add     r11d, ebp
    mov     ebp, r9d
    xor     ebp, r10d
    and     ebp, r8d
    xor     ebp, r10d
    add     r11d, ebp
    add     r11d, [r12 + r14 * 4]
    add     r11d, [rsp + r14 * 4]   // t1
    mov     ebp, eax
    mov     r15d, eax
    mov     r13d, eax
    ror     ebp, 2
    ror     r15d, 13
    ror     r13d, 22
    xor     r13d, ebp
    xor     r13d, r15d
    mov     ebp, eax
    or      ebp, ebx
    and     ebp, ecx
    mov     r15d, eax
    and     r15d, ebx
    or      ebp, r15d
    add     ebp, r13d               // t2
    add     edx, r11d
    add     ebp, r11d
    mov     r11d, r10d
    mov     r10d, r9d
    mov     r9d, r8d
    mov     r8d, edx
    mov     edx, ecx
    mov     ecx, ebx
    mov     ebx, eax
    mov     eax, ebp
    inc     r14d
    cmp     r14d, 64
    jne     23b
    add     [rdi], eax
    add     [rdi + 4], ebx
    add     [rdi + 8], ecx
    add     [rdi + 12], edx
    add     [rdi + 16], r8d
    add     [rdi + 20], r9d
    add     [rdi + 24], r10d
    add     [rdi + 28], r11d
    jmp     20b
26: add     rsp, 264
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret

.balign 64
.Lround_constants:
    .long 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5
    .long 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174
    .long 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da
    .long 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967
    .long 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85
    .long 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070
    .long 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3
    .long 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2

// On a page of its own: what is written where code runs is taken for self-modification, by processors, which then start
// anew, and by emulators, which watch the whole page (58 MiB of digest took 22 s in QEMU).
.balign 4096
    .fill 1024, 1, 0
.Lstack_top:
.globl kdumpbox_purgatory_end
kdumpbox_purgatory_end:
.set .Oprotected_16, .Lprotected_16 - kdumpbox_purgatory_start
.set .Oreal, .Lreal - kdumpbox_purgatory_start
.set .Ostack_top, .Lstack_top - kdumpbox_purgatory_start
.popsection

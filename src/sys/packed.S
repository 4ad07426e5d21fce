// A program that unpacks another and becomes it. Entered by execve; copied from kdumpbox_packed_start to kdumpbox_packed_end,
// behind which the deflate stream (RFC 1951) comes, so every reference is relative to the instruction pointer. The fields at
// the top are filled in by initramfs/packed.rs. Nobody checks the stream here: who packs it does, and between two kernels the purgatory.
.pushsection .text.kdumpbox_packed, "ax", @progbits
.balign 16
.globl kdumpbox_packed_start
kdumpbox_packed_start:

// struct Fields
.Lpacked_size:      .quad 0                 // bytes of the program, unpacked
.Lpacked_process:   .quad 0                 // the process that may: another ends at once with status 1; 0: any

.Lpacked_name:
    .asciz  "kdumpbox"
.Lpacked_text:
    .ascii  "kdump: the program of this initramfs can't be unpacked: errno "
.Lpacked_text_end:
.set .Otext, .Lpacked_text_end - .Lpacked_text

// From the stack's end up: both tables of codes, 32768 entries of 16 bits each, indexed by the next 15 bits: the symbol
// above four bits of length. Then lengths of the code for lengths, lengths of all codes, and 16 counters.
.set .Oliterals, 0
.set .Odistances, 65536
.set .Olengths, 131072
.set .Oall, 131072 + 32
.set .Ocounts, 131072 + 32 + 352
.set .Oend, 131072 + 32 + 352 + 64

.globl kdumpbox_packed_entry
kdumpbox_packed_entry:
    mov     rbp, rsp                // argc, argv, environment
    sub     rsp, .Oend
    mov     eax, 39                 // getpid
    syscall
    mov     rdx, [rip + .Lpacked_process]
    test    rdx, rdx
    jz      1f
    cmp     rax, rdx
    jne     .Lpacked_exit
1:
    mov     esi, 0x11               // MFD_CLOEXEC | MFD_EXEC
9:  mov     eax, 319                // memfd_create: the root file system may be full
    lea     rdi, [rip + .Lpacked_name]
    syscall
    test    rax, rax
    jns     10f
    cmp     esi, 1                  // before Linux 6.3 there is no MFD_EXEC
    mov     esi, 1
    jne     9b
    jmp     .Lpacked_failed
10: mov     ebx, eax
    mov     eax, 77                 // ftruncate
    mov     edi, ebx
    mov     rsi, [rip + .Lpacked_size]
    syscall
    test    rax, rax
    js      .Lpacked_failed
    mov     eax, 9                  // mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
    xor     edi, edi
    mov     rsi, [rip + .Lpacked_size]
    mov     edx, 3
    mov     r10d, 1
    mov     r8d, ebx
    xor     r9d, r9d
    syscall
    cmp     rax, -4096
    ja      .Lpacked_failed
    push    rbx
    push    rax
    mov     rdi, rax
    lea     rsi, [rip + kdumpbox_packed_end]
    lea     rbx, [rsp + 16]
    call    .Lpacked_inflate
    mov     rsi, [rip + .Lpacked_size]
    pop     rax
    sub     rdi, rax
    cmp     rdi, rsi
    pop     rbx
    jne     .Lpacked_broken
    mov     rdi, rax
    mov     eax, 11                 // munmap
    syscall
    mov     edi, ebx                // execveat(file, "", arguments, environment, AT_EMPTY_PATH)
    lea     rsi, [rip + .Lpacked_name + 8]
    lea     rdx, [rbp + 8]
    mov     r10, [rbp]
    lea     r10, [rdx + r10 * 8 + 8]
    mov     r8d, 0x1000
    mov     eax, 322
    syscall
.Lpacked_failed:
    neg     eax                     // errno
    jmp     2f
.Lpacked_broken:
    mov     eax, 74                 // EBADMSG
2:  lea     rdi, [rsp + 32]         // three digits and the end of the line, the last first
    mov     byte ptr [rdi], 10
    mov     ecx, 10
    mov     r8d, 3
3:  xor     edx, edx
    div     ecx
    add     dl, '0'
    dec     rdi
    mov     [rdi], dl
    dec     r8d
    jnz     3b
    mov     r12, rdi
    lea     rsi, [rip + .Lpacked_text]
    mov     edx, .Otext
    mov     edi, 2
    mov     eax, 1                  // write
    syscall
    mov     rsi, r12
    mov     edx, 4
    mov     edi, 2
    mov     eax, 1
    syscall
.Lpacked_exit:
    mov     edi, 1
    mov     eax, 60                 // exit
    syscall

// At least 56 bits into r8, of which r9d counts those that are taken for read; up to 8 bytes behind the stream are read.
.macro packed_refill
    mov     rax, [rsi]
    mov     ecx, r9d
    shl     rax, cl
    or      r8, rax
    mov     eax, 63
    sub     eax, r9d
    shr     eax, 3
    add     rsi, rax
    or      r9d, 56
.endm
// The next \count bits (no more than 13) to \to.
.macro packed_bits to, count
    mov     \to, r8d
    and     \to, (1 << \count) - 1
    shr     r8, \count
    sub     r9d, \count
.endm
// The next symbol of the table at rbx + \table to eax.
.macro packed_symbol table
    mov     eax, r8d
    and     eax, 0x7fff
    movzx   eax, word ptr [rbx + rax * 2 + \table]
    mov     ecx, eax
    and     ecx, 15
    shr     r8, cl
    sub     r9d, ecx
    shr     eax, 4
.endm
// Adds the next cl bits to \to; eax is lost.
.macro packed_extra to
    mov     eax, -1
    shl     eax, cl
    not     eax
    and     eax, r8d
    shr     r8, cl
    sub     r9d, ecx
    add     \to, eax
.endm

// Unpacks the stream at rsi to rdi; tables at rbx. Leaves rdi behind the last byte.
.Lpacked_inflate:
    push    rbp
    xor     r8d, r8d
    xor     r9d, r9d
.Lpacked_block:
    packed_refill
    packed_bits r10d, 1             // whether it is the last
    packed_bits eax, 2
    cmp     eax, 1
    je      .Lpacked_fixed
    ja      .Lpacked_dynamic
    mov     ecx, r9d                // stored: from the next whole byte on, a length and its complement
    and     ecx, 7
    sub     r9d, ecx
    shr     r9d, 3
    sub     rsi, r9
    movzx   ecx, word ptr [rsi]
    add     rsi, 4
    rep     movsb
    xor     r8d, r8d
    xor     r9d, r9d
    jmp     .Lpacked_block_end
.Lpacked_fixed:
    mov     r11, rdi
    lea     rdi, [rbx + .Oall]
    lea     rdx, [rip + .Lpacked_fixed_lengths]
4:  movzx   ecx, byte ptr [rdx]     // so many
    movzx   eax, byte ptr [rdx + 1] // of this length
    add     rdx, 2
    rep     stosb
    test    eax, eax
    jnz     4b
    mov     rdi, r11
    mov     r15d, 288
    mov     ebp, 30
    jmp     .Lpacked_tables
.Lpacked_dynamic:
    packed_bits r15d, 5
    add     r15d, 257
    packed_bits ebp, 5
    inc     ebp
    packed_bits r12d, 4
    add     r12d, 4
    xor     eax, eax
    mov     [rbx + .Olengths], rax
    mov     [rbx + .Olengths + 8], rax
    mov     [rbx + .Olengths + 16], rax
    lea     r13, [rip + .Lpacked_order]
5:  packed_refill
    packed_bits eax, 3
    movzx   ecx, byte ptr [r13]
    inc     r13
    mov     [rbx + rcx + .Olengths], al
    dec     r12d
    jnz     5b
    push    r15
    push    rbp
    mov     r15d, 19
    lea     r14, [rbx + .Olengths]
    lea     rdx, [rbx + .Oliterals]
    call    .Lpacked_build
    pop     rbp
    pop     r15
    lea     r14, [rbx + .Oall]      // lengths of literals, and behind them of distances
    lea     r12, [r14 + r15]
    add     r12, rbp
6:  packed_refill
    packed_symbol .Oliterals
    cmp     eax, 16
    jae     7f
    mov     [r14], al
    inc     r14
    jmp     10f
7:  mov     r13d, 3                 // 16: the last one 3 to 6 times
    mov     ecx, 2
    mov     dl, [r14 - 1]
    je      8f
    xor     edx, edx                // 17: zero 3 to 10 times
    inc     ecx
    cmp     eax, 17
    je      8f
    mov     r13d, 11                // 18: 11 to 138 times
    mov     ecx, 7
8:  packed_extra r13d
9:  mov     [r14], dl
    inc     r14
    dec     r13d
    jnz     9b
10: cmp     r14, r12
    jb      6b
.Lpacked_tables:
    push    rbp
    push    r15
    lea     r14, [rbx + .Oall]
    lea     rdx, [rbx + .Oliterals]
    call    .Lpacked_build
    pop     rax
    lea     r14, [rbx + rax + .Oall]
    pop     r15
    lea     rdx, [rbx + .Odistances]
    call    .Lpacked_build
.Lpacked_next:
    packed_refill
    packed_symbol .Oliterals
    cmp     eax, 256
    jae     11f
    stosb
    jmp     .Lpacked_next
11: je      .Lpacked_block_end
    lea     rdx, [rip + .Lpacked_length_bits - 257]
    movzx   ecx, byte ptr [rdx + rax]
    lea     rdx, [rip + .Lpacked_length_bases - 257 * 2]
    movzx   r12d, word ptr [rdx + rax * 2]
    packed_extra r12d
    packed_symbol .Odistances
    lea     rdx, [rip + .Lpacked_distance_bases]
    movzx   r13d, word ptr [rdx + rax * 2]
    mov     ecx, eax                // extra bits: none for the first four, then one more for every two
    shr     ecx, 1
    dec     ecx
    cmp     eax, 2
    jae     12f
    xor     ecx, ecx
12: packed_extra r13d
    neg     r13
13: mov     al, [rdi + r13]
    stosb
    dec     r12d
    jnz     13b
    jmp     .Lpacked_next
.Lpacked_block_end:
    test    r10d, r10d
    jz      .Lpacked_block
    pop     rbp
    ret

// The table at rdx of the canonical code with the r15d lengths at r14.
.Lpacked_build:
    lea     r11, [rbx + .Ocounts]
    mov     r13, rdi
    mov     rdi, r11
    xor     eax, eax
    mov     ecx, 8
    rep     stosq
    mov     rdi, rdx
    mov     ecx, 8192
    rep     stosq
    mov     rdi, r13
    xor     r12d, r12d
14: movzx   eax, byte ptr [r14 + r12]
    inc     dword ptr [r11 + rax * 4]
    inc     r12d
    cmp     r12d, r15d
    jb      14b
    xor     eax, eax                // counts of lengths become their first codes
    xor     r12d, r12d
    mov     ecx, 1
15: add     eax, r12d
    add     eax, eax
    mov     r12d, [r11 + rcx * 4]
    mov     [r11 + rcx * 4], eax
    inc     ecx
    cmp     ecx, 16
    jb      15b
    xor     r12d, r12d
16: movzx   ecx, byte ptr [r14 + r12]
    test    ecx, ecx
    jz      19f
    mov     eax, [r11 + rcx * 4]
    inc     dword ptr [r11 + rcx * 4]
    xor     r13d, r13d              // the code, its first bit lowest
    mov     ebp, ecx
17: shr     eax, 1
    adc     r13d, r13d
    dec     ebp
    jnz     17b
    mov     ebp, 1
    shl     ebp, cl
    mov     eax, r12d
    shl     eax, 4
    or      eax, ecx
18: mov     [rdx + r13 * 2], ax
    add     r13d, ebp
    cmp     r13d, 32768
    jb      18b
19: inc     r12d
    cmp     r12d, r15d
    jb      16b
    ret

// RFC 1951, 3.2.5 to 3.2.7.
.Lpacked_order:
    .byte   16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15
.Lpacked_fixed_lengths:
    .byte   144, 8, 112, 9, 24, 7, 8, 8, 30, 5, 0, 0
.Lpacked_length_bits:
    .byte   0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0
.Lpacked_length_bases:
    .word   3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258
.Lpacked_distance_bases:
    .word   1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097
    .word   6145, 8193, 12289, 16385, 24577

.balign 8
.globl kdumpbox_packed_end
kdumpbox_packed_end:
.popsection

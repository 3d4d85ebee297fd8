/* The launcher, for 64-bit Arm: see x86_64.S beside this file, whose text holds for both. */

        .text
        .set    LOAD_ADDRESS, 0x400000
start_of_file:
        /* -- ELF header: 64 bytes (elf(5), Elf64_Ehdr) -- */
        .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0         /* 64 bits, little-endian, version 1, System V */
        .quad   0
        .short  2, 183                                  /* ET_EXEC, EM_AARCH64 */
        .long   1                                       /* EV_CURRENT */
        .quad   LOAD_ADDRESS + (_start - start_of_file) /* e_entry */
        .quad   program_headers - start_of_file         /* e_phoff */
        .quad   0                                       /* e_shoff: no sections */
        .long   0                                       /* e_flags */
        .short  64, 56, 2, 0, 0, 0                      /* sizes of headers; two program headers; no sections */
program_headers:
        .long   1, 5                                    /* PT_LOAD, readable and executable */
        .quad   0, LOAD_ADDRESS, LOAD_ADDRESS           /* the whole file, at its address */
        .quad   end_of_file - start_of_file, end_of_file - start_of_file
        .quad   0x10000                                 /* alignment: the largest page there is */
        .long   0x6474e551, 6                           /* PT_GNU_STACK: readable and writable, not executable */
        .quad   0, 0, 0, 0, 0, 16

        /* -- the executable ----------------------------------------------------------------------------------- */
_start:
        mov     x19, sp                 /* [x19] = argc, [x19+8] = argv[0], ... */
        ldr     x20, [x19, 8]           /* x20 = argv[0]: FLAGS and the working directory */
        ldrb    w21, [x20]              /* w21 = FLAGS */
        cmp     w21, 'c'
        b.eq    init

        /* rt_sigprocmask(SIG_SETMASK, &empty, NULL, 8) */
        str     xzr, [sp, -16]!
        mov     x8, 135
        mov     x0, 2
        mov     x1, sp
        mov     x2, 0
        mov     x3, 8
        svc     0

        /* setsid() */
        mov     x8, 157
        svc     0

        /* fcntl(3, F_SETFD, FD_CLOEXEC) */
        mov     x8, 25
        mov     x0, 3
        mov     x1, 2
        mov     x2, 1
        svc     0
        cbz     x0, 1f

        /* a filter forbids it: ioctl(3, FIOCLEX), or close(3) */
        mov     x8, 29
        mov     x0, 3
        mov     x1, 0x5451
        mov     x2, 0
        svc     0
        cbz     x0, 1f
        mov     x8, 57
        mov     x0, 3
        svc     0
1:
        /* close_range(4, 8, 0), close_range(9 or 10, ~0, 0) */
        mov     x8, 436
        mov     x0, 4
        mov     x1, 8
        mov     x2, 0
        svc     0
        mov     x8, 436
        and     x0, x21, 1
        add     x0, x0, 9
        mov     w1, -1
        mov     x2, 0
        svc     0

        /* ioctl(0, TIOCSCTTY, 0), if FLAGS says so */
        tbz     w21, 1, 1f
        mov     x8, 29
        mov     x0, 0
        mov     x1, 0x540e
        mov     x2, 0
        svc     0
1:
        /* chdir(working directory) */
        mov     w22, 1                  /* the step, for the report */
        mov     x8, 49
        add     x0, x20, 1
        svc     0
        tbnz    x0, 63, 2f

        /* execve(argv[1], argv + 2, envp), envp = argv + argc + 1 */
        mov     w22, 2
        mov     x8, 221
        ldr     x0, [x19, 16]
        add     x1, x19, 24
        ldr     x2, [x19]
        add     x2, x19, x2, lsl 3
        add     x2, x2, 16
        svc     0
2:
        /* write(3, {step, errno}, 8); exit_group(70) */
        neg     w0, w0
        stp     w22, w0, [sp]
        mov     x8, 64
        mov     x0, 3
        mov     x1, sp
        mov     x2, 8
        svc     0
        mov     x8, 94
        mov     x0, 70
        svc     0
        brk     0

        /* -- the init ----------------------------------------------------------------------------------------- */
init:
        mov     w22, 0                  /* w22 = the program's pid, 0: there is none */
        ldr     x1, [x19, 16]
        cbz     x1, 11f
        mov     w2, 10
10:
        ldrb    w0, [x1], 1
        cbz     w0, 11f
        sub     w0, w0, '0'
        madd    w22, w22, w2, w0
        b       10b
11:
        /* rt_sigprocmask(SIG_SETMASK, all, NULL, 8) */
        mov     x0, -1
        stp     x0, xzr, [sp, -16]!     /* [sp] = the signals, [sp + 8] = a status */
        mov     x8, 135
        mov     x0, 2
        mov     x1, sp
        mov     x2, 0
        mov     x3, 8
        svc     0

        /* prctl(PR_SET_NAME, argv[0]) */
        mov     x8, 167
        mov     x0, 15
        mov     x1, x20
        svc     0

reap:
        /* wait4(-1, &status, WNOHANG, NULL) */
        mov     x8, 260
        mov     x0, -1
        add     x1, sp, 8
        mov     x2, 1
        mov     x3, 0
        svc     0
        cbz     w0, wait                /* nobody has ended */
        tbnz    w0, 31, 13f
        ldr     w1, [sp, 8]
        and     w2, w1, 0xff
        cmp     w2, 0x7f
        b.eq    12f
        cmp     w0, w22
        b.ne    reap

        /* the program has ended: with its status, or 128 + its signal */
        lsr     w0, w1, 8
        ands    w2, w1, 0x7f
        b.eq    leave
        add     w0, w2, 128
        b       leave
12:
        /* ptrace(PTRACE_DETACH, pid, 0, its signal, but SIGTRAP) */
        ubfx    w3, w1, 8, 8
        cmp     w3, 5
        csel    w3, wzr, w3, eq
        mov     x8, 117
        mov     w1, w0
        mov     x0, 17
        mov     x2, 0
        svc     0
        b       reap
13:
        cmn     w0, 10                  /* ECHILD: there is nobody */
        b.ne    broken
wait:
        /* rt_sigtimedwait(&signals, NULL, NULL, 8) */
        mov     x8, 137
        mov     x0, sp
        mov     x1, 0
        mov     x2, 0
        mov     x3, 8
        svc     0
        cmp     w0, 17                  /* SIGCHLD */
        b.eq    reap
        tbnz    w0, 31, 16f
        cbz     w22, 15f

        /* kill(the program or, of an interrupt, its process group, signal) */
        mov     w1, w0
        cmp     w1, 2
        cneg    w0, w22, eq
        mov     x8, 129
        svc     0
        b       wait
15:
        /* it idles: HUP, INT and TERM end it */
        mov     x1, 0x8006              /* bit n: signal n; of 64, as there are signals up to that */
        lsr     x1, x1, x0
        tbz     w1, 0, wait
        add     w0, w0, 128
leave:
        mov     x8, 94
        svc     0                       /* exit_group(status) */
        brk     0
16:
        cmn     w0, 4                   /* EINTR: it was stopped and goes on */
        b.eq    wait
broken:
        mov     w0, 70                  /* a filter forbids what it needs */
        b       leave

        /* -- the function: long list_of_calls(const uint64_t calls[][7], uint64_t count, uint64_t failed[2]) -- */
        .balign 16
list_of_calls:
        stp     x19, x20, [sp, -32]!
        stp     x21, x22, [sp, 16]
        mov     x19, x0                 /* the call at hand */
        mov     x20, x1                 /* how many there are */
        mov     x21, x2                 /* where a failure is written */
        mov     x22, 0                  /* the index of the call at hand */
3:
        ldr     x8, [x19]
        ldp     x0, x1, [x19, 8]
        ldp     x2, x3, [x19, 24]
        ldp     x4, x5, [x19, 40]
        svc     0
        cbnz    x22, 4f                 /* not the first */
        cbnz    x0, 6f                  /* the first: not zero is the caller's; zero: we are the child */
4:
        cmn     x0, 4095                /* -4095 ... -1: an errno */
        b.hs    5f
        add     x19, x19, 56
        add     x22, x22, 1
        cmp     x22, x20
        b.lo    3b
        mov     x0, 0                   /* the list has ended without an execve */
5:
        neg     x0, x0
        stp     x22, x0, [x21]
        mov     x8, 94
        mov     x0, 70
        svc     0                       /* exit_group(70) */
        brk     0
6:
        ldp     x21, x22, [sp, 16]
        ldp     x19, x20, [sp], 32
        ret
end_of_file:

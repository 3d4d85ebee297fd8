/* The launcher: the last program of ours that a process runs before it becomes what a container chose.

   One file that is three things:
   - a static executable (`_start`), which is what `/proc/self/exe` names while the kernel resolves the container's
     path, and which closes every descriptor that isn't the program's before it names that path;
   - with another FLAGS, the init (`init`) of a container that has no program, or whose program isn't its first process;
   - behind it a function (`list_of_calls`), which runners map from the same file: it makes a child with vfork
     semantics and performs a list of system calls in it.

   No library, no data, no stack frame: all of it is position-independent and read-only.
   Assembled by scripts/assemble-launcher.py into kernel/launcher_code.py; tests/pure/test_launcher_code.py does it
   again and compares. aarch64.S beside this file is the same for the other processor.

   Started as: argv = [FLAGS + working directory, path, argv[0] of the program, ...], descriptor 3 = report.
   FLAGS is one character, 0x40 + 1 (keep descriptor 9: a script) + 2 (descriptor 0 is to be the controlling terminal).
   Where it fails it writes two 32-bit words to the report, the step (1: working directory, 2: program) and the errno,
   and exits with 70; success closes the report, which is close-on-exec.

   Started as an init: argv = [its name, pid]: FLAGS is the name's first letter, since whoever looks at its title may do
   so before its first instruction; pid is the program's in decimal, absent where there is none. Its report is closed
   by its exec: the program may run already, and can trace it from then on. */

        .intel_syntax noprefix
        .text
        .set    LOAD_ADDRESS, 0x400000
start_of_file:
        /* -- ELF header: 64 bytes (elf(5), Elf64_Ehdr) -- */
        .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0         /* 64 bits, little-endian, version 1, System V */
        .quad   0
        .short  2, 62                                   /* ET_EXEC, EM_X86_64 */
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
        .quad   0x1000                                  /* alignment: a page */
        .long   0x6474e551, 6                           /* PT_GNU_STACK: readable and writable, not executable */
        .quad   0, 0, 0, 0, 0, 16

        /* -- the executable ----------------------------------------------------------------------------------- */
_start:
        mov     rbx, rsp                /* [rbx] = argc, [rbx+8] = argv[0], ... (no call is made: no stack is used) */
        mov     r12, [rbx + 8]          /* r12 = argv[0]: FLAGS and the working directory */
        cmp     byte ptr [r12], 'c'     /* all of it: a container may execute this file by any name */
        je      init

        /* The signals that runners block: rt_sigprocmask(SIG_SETMASK, &empty, NULL, 8) */
        push    0
        mov     eax, 14
        mov     edi, 2
        mov     rsi, rsp
        xor     edx, edx
        mov     r10d, 8
        syscall

        /* A session of its own (a container's first process leads one already: EPERM is fine): setsid() */
        mov     eax, 112
        syscall

        /* What a container is told of a success is the end of the report: fcntl(3, F_SETFD, FD_CLOEXEC) */
        mov     eax, 72
        mov     edi, 3
        mov     esi, 2
        mov     edx, 1
        syscall
        test    eax, eax
        jz      1f

        /* A filter forbids it: ioctl(3, FIOCLEX), or close(3), by which a failure stays untold */
        mov     eax, 16
        mov     edi, 3
        mov     esi, 0x5451
        xor     edx, edx
        syscall
        test    eax, eax
        jz      1f
        mov     eax, 3
        mov     edi, 3
        syscall
1:
        /* Nothing stays open but the streams, the report and, if FLAGS says so, the script:
           close_range(4, 8, 0), close_range(9 or 10, ~0, 0) */
        mov     eax, 436
        mov     edi, 4
        mov     esi, 8
        xor     edx, edx
        syscall
        mov     eax, 436
        movzx   edi, byte ptr [r12]
        and     edi, 1
        add     edi, 9
        mov     esi, -1
        xor     edx, edx
        syscall

        /* A terminal becomes the session's own: ioctl(0, TIOCSCTTY, 0) */
        test    byte ptr [r12], 2
        jz      1f
        mov     eax, 16
        xor     edi, edi
        mov     esi, 0x540e
        xor     edx, edx
        syscall
1:
        /* Now, with nothing open that leads out of the container: chdir(working directory) */
        mov     r13d, 1                 /* the step, for the report */
        mov     eax, 80
        lea     rdi, [r12 + 1]
        syscall
        test    eax, eax
        js      2f

        /* The container's program: execve(argv[1], argv + 2, envp), envp = argv + argc + 1 */
        mov     r13d, 2
        mov     eax, 59
        mov     rdi, [rbx + 16]
        lea     rsi, [rbx + 24]
        mov     rdx, [rbx]
        lea     rdx, [rbx + rdx * 8 + 16]
        syscall
2:
        /* It didn't work: write(3, {step, errno}, 8); exit_group(70) */
        neg     eax
        mov     [rsp], r13d
        mov     [rsp + 4], eax
        mov     eax, 1
        mov     edi, 3
        mov     rsi, rsp
        mov     edx, 8
        syscall
        mov     eax, 231
        mov     edi, 70
        syscall
        hlt

        /* -- the init: it reaps, passes signals on, and ends with its program ---------------------------------------
           Nothing is handled, all is waited for: the signals are blocked, so none is lost, and there is no moment
           between looking for the dead and sleeping. */
init:
        xor     r13d, r13d              /* r13 = the program's pid, 0: there is none */
        mov     rsi, [rbx + 16]
        test    rsi, rsi
        jz      11f
10:
        movzx   eax, byte ptr [rsi]
        test    eax, eax
        jz      11f
        imul    r13d, r13d, 10
        lea     r13d, [r13 + rax - '0']
        inc     rsi
        jmp     10b
11:
        /* rt_sigprocmask(SIG_SETMASK, all, NULL, 8) */
        sub     rsp, 16                 /* [rsp] = the signals, [rsp + 8] = a status */
        mov     qword ptr [rsp], -1
        mov     eax, 14
        mov     edi, 2
        mov     rsi, rsp
        xor     edx, edx
        mov     r10d, 8
        syscall

        /* What it is called: prctl(PR_SET_NAME, argv[0]) */
        mov     eax, 157
        mov     edi, 15
        mov     rsi, r12
        syscall

reap:
        /* wait4(-1, &status, WNOHANG, NULL) */
        mov     eax, 61
        mov     rdi, -1
        lea     rsi, [rsp + 8]
        mov     edx, 1
        xor     r10d, r10d
        syscall
        test    eax, eax
        jz      wait                    /* nobody has ended */
        js      13f
        mov     ecx, [rsp + 8]
        cmp     cl, 0x7f
        je      12f
        cmp     eax, r13d
        jne     reap

        /* The program has ended: with its status, or 128 + its signal */
        mov     edi, ecx
        shr     edi, 8
        and     ecx, 0x7f
        jz      leave
        lea     edi, [rcx + 128]
        jmp     leave
12:
        /* It has made us its tracer (PTRACE_TRACEME), stopped, and waits for our word:
           ptrace(PTRACE_DETACH, pid, 0, its signal, but SIGTRAP) */
        movzx   r10d, byte ptr [rsp + 9]
        cmp     r10d, 5
        jne     1f
        xor     r10d, r10d
1:
        mov     esi, eax
        mov     eax, 101
        mov     edi, 17
        xor     edx, edx
        syscall
        jmp     reap
13:
        cmp     eax, -10                /* ECHILD: there is nobody */
        jne     broken
wait:
        /* rt_sigtimedwait(&signals, NULL, NULL, 8) */
        mov     eax, 128
        mov     rdi, rsp
        xor     esi, esi
        xor     edx, edx
        mov     r10d, 8
        syscall
        cmp     eax, 17                 /* SIGCHLD */
        je      reap
        test    eax, eax
        js      16f
        mov     esi, eax
        test    r13d, r13d
        jz      15f

        /* kill(the program, signal); an interrupt is for its process group, as a terminal's is */
        mov     edi, r13d
        cmp     esi, 2
        jne     14f
        neg     edi
14:
        mov     eax, 62
        syscall
        jmp     wait
15:
        /* It idles: HUP, INT and TERM end it */
        lea     edi, [rax + 128]
        mov     edx, 0x8006             /* bit n: signal n; of 64, as there are signals up to that */
        bt      rdx, rax
        jnc     wait
leave:
        mov     eax, 231
        syscall                         /* exit_group(status) */
        hlt
16:
        cmp     eax, -4                 /* EINTR: it was stopped and goes on */
        je      wait
broken:
        mov     edi, 70                 /* a filter forbids what it needs */
        jmp     leave

        /* -- the function -------------------------------------------------------------------------------------
           long list_of_calls(const uint64_t calls[][7], uint64_t count, uint64_t failed[2])
           Each call is its number and six arguments. The first is a clone (with CLONE_VM, CLONE_VFORK and a stack of
           its own): the caller gets its result. The child performs the rest, the last of which should be an execve;
           the first that fails ends it: failed = {index, errno}, exit_group(70). */
        .balign 16
list_of_calls:
        push    rbx
        push    r12
        push    r13
        push    r14
        mov     rbx, rdi                /* the call at hand */
        mov     r12, rsi                /* how many there are */
        mov     r13, rdx                /* where a failure is written */
        xor     r14d, r14d              /* the index of the call at hand */
3:
        mov     rax, [rbx]
        mov     rdi, [rbx + 8]
        mov     rsi, [rbx + 16]
        mov     rdx, [rbx + 24]
        mov     r10, [rbx + 32]
        mov     r8, [rbx + 40]
        mov     r9, [rbx + 48]
        syscall
        test    r14, r14                /* the first? */
        jnz     4f
        test    rax, rax                /* yes: not zero is the caller's (a pid or an errno); zero: we are the child, */
        jnz     6f                      /* on another stack, and from here on nothing is taken from it */
4:
        cmp     rax, -4095              /* -4095 ... -1: an errno */
        jae     5f
        add     rbx, 56
        inc     r14
        cmp     r14, r12
        jb      3b
        xor     eax, eax                /* the list has ended without an execve */
5:
        neg     rax
        mov     [r13], r14
        mov     [r13 + 8], rax
        mov     eax, 231
        mov     edi, 70
        syscall                         /* exit_group(70) */
        hlt
6:
        pop     r14
        pop     r13
        pop     r12
        pop     rbx
        ret
end_of_file:

/* replay.h - with TB_FUZZ_MAIN, a program that gives each file named on its command line to the
 * fuzzer's LLVMFuzzerTestOneInput(), which stands before the place where this is included. Inputs are
 * read up to 64 KiB. Exit 1 where a file cannot be read.
 */
#ifdef TB_FUZZ_MAIN
#include <stdio.h>
#include <stdlib.h>

static void replay(const char *path)
{
    static uint8_t data[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) replay(argv[i]);
    printf("%d inputs replayed\n", argc - 1);
    return 0;
}
#endif

/* bench_http.c - the same requests through bare libcurl, one after the other on one
 * kept-alive connection: what tests/bench/bench_http.lua is compared with.
 *
 * usage: bench_http URL BODY REQUESTS
 * Prints `curl_request_us_p50 <x> us` and `curl_requests_per_s <x>`.
 */
#include <curl/curl.h>

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static size_t drop(char *data, size_t unit, size_t size, void *user)
{
    (void)data;
    (void)user;
    return unit * size;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: bench_http URL BODY REQUESTS\n");
        return 2;
    }
    size_t n = (size_t)strtoul(argv[3], NULL, 10);
    int64_t *took_ns = calloc(n, sizeof *took_ns);
    CURL *easy = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!took_ns || !easy || !headers || n == 0) {
        return 1;
    }
    curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, argv[2]);
    int64_t began_ns = now_ns();
    for (size_t i = 0; i < n; i++) {
        int64_t start_ns = now_ns();
        if (curl_easy_perform(easy) != CURLE_OK) {
            fprintf(stderr, "bench_http: a request failed\n");
            return 1;
        }
        took_ns[i] = now_ns() - start_ns;
    }
    double total_s = (double)(now_ns() - began_ns) / 1e9;
    qsort(took_ns, n, sizeof took_ns[0], compare);
    printf("curl_request_us_p50 %.1f us\n", (double)took_ns[n / 2] / 1000);
    printf("curl_requests_per_s %.0f\n", (double)n / total_s);
    curl_slist_free_all(headers);
    curl_easy_cleanup(easy);
    free(took_ns);
    return 0;
}

/* crypto: libcrypto's assembly, with its own notes for unwinders, below C: ciphers, digests, RSA and a curve. */
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <string.h>

#include "work.h"

static unsigned char text[64 << 10], out[sizeof text + 64];

static void must(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "crypto: %s failed\n", what);
		exit(1);
	}
}

FUNCTION void encrypt(const EVP_CIPHER *cipher)
{
	static const unsigned char key[32], iv[16];
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;
	must(ctx && EVP_EncryptInit_ex(ctx, cipher, NULL, key, iv) && EVP_EncryptUpdate(ctx, out, &n, text, sizeof text), "encrypt");
	EVP_CIPHER_CTX_free(ctx);
}

FUNCTION void hash(const EVP_MD *digest)
{
	unsigned char sum[EVP_MAX_MD_SIZE];
	unsigned n;
	must(EVP_Digest(text, sizeof text, sum, &n, digest, NULL), "digest");
	memcpy(text, sum, n);
}

FUNCTION void sign(EVP_PKEY *key)
{
	size_t n = sizeof out;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	must(ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 && EVP_DigestSign(ctx, out, &n, text, 64) == 1, "sign");
	EVP_MD_CTX_free(ctx);
}

int main(void)
{
	EVP_PKEY *rsa = EVP_RSA_gen(2048), *ec = EVP_EC_gen("P-256");
	must(rsa && ec, "make keys");
	say("crypto", 1);
	for (;;) {
		encrypt(EVP_aes_256_cbc());
		encrypt(EVP_aes_128_gcm());
		encrypt(EVP_chacha20_poly1305());
		hash(EVP_sha256());
		hash(EVP_sha512());
		hash(EVP_md5());
		sign(rsa);
		for (int i = 0; i < 10; i++)
			sign(ec);
	}
}

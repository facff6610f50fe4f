/* SPDX-License-Identifier: MIT */
/* A program that ends as soon as its libraries let it. */
int main(void)
{
	return 0;
}

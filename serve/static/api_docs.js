// Shows the OpenAPI document of this server; nothing is validated or loaded elsewhere.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: false,
});
